"""The frozen test sets: how they are drawn, built, evaluated and recomputed."""
