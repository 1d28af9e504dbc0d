"""Packages for Linux: deb, rpm and a plain archive."""
