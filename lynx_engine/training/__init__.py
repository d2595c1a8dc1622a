"""How the weights of the tiny variants come to be: drawn people, and what learns from them."""
