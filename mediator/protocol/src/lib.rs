//! Messages of the mediated VF to PF channel.
