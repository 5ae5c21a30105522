"""What an operator at a terminal does: sessions of recording, series of rollouts."""
