"""What people do with documents, folders, users and tags; each change leaves an entry in the audit log."""
