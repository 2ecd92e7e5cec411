"""Training for stages II and III: one loop, two engines, exact resume."""
