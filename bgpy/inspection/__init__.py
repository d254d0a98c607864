"""Values as a person looks at them: a window of their rows, the statistics of their columns."""
