"""A tour of the program that brings its own pictures: draw them, then run the public commands on them."""
