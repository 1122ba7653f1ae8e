"""What low precision does to five models, and how well it is predicted."""
