"""How problems and answers look in the lab: one file per kind of board."""
