"""What does a user type? One module per command; `main` is the frame around them."""
