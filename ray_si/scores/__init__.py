"""What a row is worth: scores beside a run, and the choice of rows by them."""
