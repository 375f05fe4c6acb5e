"""How what the package ships was made. Not part of the package."""
