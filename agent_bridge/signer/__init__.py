"""The signer: a device of a person's own account that shows drafts whole and signs decisions."""
