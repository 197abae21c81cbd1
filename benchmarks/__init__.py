"""Every performance claim as a program that anyone can run."""
