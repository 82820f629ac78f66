"""The recipes that come with the program: TOML files, each with its claim. ``eighteen recipes`` lists them."""
