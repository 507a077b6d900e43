"""What is wrong with demonstrations, in numbers, sentences and pictures."""
