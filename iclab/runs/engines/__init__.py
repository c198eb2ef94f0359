"""Where workers work: processes of this machine (`local`), or of others."""
