"""Ways to run a bundle's graphs; `engine` says what they all promise."""
