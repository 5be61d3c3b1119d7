"""What sellers and phones do to photos, and sellers to titles."""
