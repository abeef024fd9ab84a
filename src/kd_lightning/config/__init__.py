"""Raw configuration: its shape, its checks, errors in the user's words, names of before."""
