"""Examples of programs that use relevo from outside, by its topics alone."""
