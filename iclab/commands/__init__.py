"""What the commands of the command line do, and the tables that they print."""
