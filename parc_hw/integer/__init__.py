"""What does a whole model compute in int8 or int16?"""
