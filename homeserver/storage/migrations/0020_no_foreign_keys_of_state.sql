-- compatible-from: 0019
-- Tables that a large room fills by the thousand have no foreign keys, as events never had: each
-- row cost two look-ups, two thirds of the time that the members of a room took to write. What
-- they refer to is never deleted, and its number comes from the row itself a moment before.

ALTER TABLE room_memberships DROP CONSTRAINT room_memberships_room_nid_fkey;
ALTER TABLE room_memberships DROP CONSTRAINT room_memberships_user_nid_fkey;
ALTER TABLE state_slots DROP CONSTRAINT state_slots_type_nid_fkey;
