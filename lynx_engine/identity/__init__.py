"""From a subject's photo to an identity: find the face, cut it out, recognise it."""
