"""What looks on while a run trains, or acts at named moments of it."""
