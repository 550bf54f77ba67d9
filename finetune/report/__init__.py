"""What is drawn and written for people to look at."""
