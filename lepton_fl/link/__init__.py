"""The link between operator and institutions: certificates and invitations."""
