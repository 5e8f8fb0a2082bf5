"""Which points of a rule's space are worth measuring on a device?"""
