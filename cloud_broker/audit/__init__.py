"""What happened, who did it, and the proof that nothing was taken out of it since."""
