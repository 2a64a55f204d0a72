//! What is done with a rig. Each body runs under every wiring.

use crate::rig::Rig;

/// Bodies that only a card of ours can be taken through, and why.
pub const OUR_CARD_ONLY: &[(&str, &str)] = &[
    (
        "dma::a_descriptor_outside_faults_only_there",
        THE_CARDS_FAULTS,
    ),
    ("dma::dma_into_the_msi_window_faults", THE_CARDS_FAULTS),
    ("dma::dma_across_an_edge_faults", THE_CARDS_FAULTS),
    ("dma::dma_after_unmap_faults", THE_CARDS_FAULTS),
    (
        "traffic::a_write_is_done_before_what_follows",
        "stores to registers as to memory, which those of hardware are not",
    ),
    ("reset::a_pf_reset_under_vfs", A_PF_THAT_DIES),
    (
        "reset::a_pf_driver_that_comes_back_adopts_its_vfs",
        A_PF_THAT_DIES,
    ),
    (
        "policy::each_vf_sees_its_own_link",
        "pulls the card's cable",
    ),
    (
        "probe::the_cards_own_mailbox_is_out_of_reach",
        "looks into the card beside the mediator",
    ),
    (
        "spoof::a_spoofed_mac_is_dropped_and_counted",
        THE_CARDS_COUNTERS,
    ),
    ("spoof::a_vlan_not_its_own_is_dropped", THE_CARDS_COUNTERS),
    ("spoof::a_pause_frame_reaches_nobody", THE_CARDS_COUNTERS),
    ("traffic::ten_thousand_frames_in_order", THE_CARDS_COUNTERS),
];
const THE_CARDS_FAULTS: &str =
    "asks the card for its last fault; on the kernel's that is the IOMMU's";
const A_PF_THAT_DIES: &str = "wants VFs to go on without a PF driver; the kernel resets a PF whose driver dies, and all with it";
const THE_CARDS_COUNTERS: &str = "asks the card for its counters and drops";

/// Bodies that ask for what a foreign card may lack, with the words of the PF driver's report of gaps
/// that tell.
pub const NEEDS: &[(&str, &str)] = &[
    (
        "traffic::broadcast_reaches_all_but_its_sender",
        "exclusion of the sender's own pool",
    ),
    ("policy::unicast_promiscuity_needs_trust", "promiscuous VFs"),
    ("attack::an_invalidation_storm", "rate limits"),
];

/// Declares the modules and makes of one list both the table of bodies and the tests.
macro_rules! scenarios {
    ($d:tt $( $module:ident { $($name:ident)* } )*) => {
        $( mod $module; )*

        /// Every scenario, by name.
        pub const ALL: &[(&str, fn(&mut Rig))] = &[$($(
            (concat!(stringify!($module), "::", stringify!($name)), $module::$name),
        )*)*];

        /// One `#[test]` for each scenario there is, under a wiring. Both test programs take the
        /// list from here, so neither can leave one out.
        #[macro_export]
        macro_rules! every_scenario {
            ($d wiring:expr) => {
                $( mod $module {
                    $(
                        #[test]
                        fn $name() {
                            let name = concat!(stringify!($module), "::", stringify!($name));
                            tandem_tests::runner::run($d wiring, name);
                        }
                    )*
                } )*
            };
        }
    };
}

scenarios! { $
    probe {
        twenty_vf_drivers_one_after_the_other
        twenty_pf_drivers_one_after_the_other
        a_card_has_no_vf_before_the_pf_driver_makes_one
        the_number_of_vfs_is_bounded_and_fixed_while_enabled
        the_cards_own_mailbox_is_out_of_reach
    }
    traffic {
        every_station_reaches_every_other
        every_size_arrives_intact
        ten_thousand_frames_in_order
        broadcast_reaches_all_but_its_sender
        multicast_reaches_its_group
        unknown_unicast_reaches_nobody
        jumbo_frames_after_both_asked
        a_write_is_done_before_what_follows
    }
    vlan {
        a_port_vlan_separates
        a_vf_joins_the_vlans_it_may
        a_port_vlan_allows_no_other
    }
    policy {
        a_mac_is_granted
        an_admin_mac_stays
        anothers_mac_is_refused
        addresses_of_no_station_are_refused
        unicast_promiscuity_needs_trust
        additional_addresses_end
        the_pf_bounds_the_mtu
        each_vf_sees_its_own_link
    }
    spoof {
        a_spoofed_mac_is_dropped_and_counted
        a_vlan_not_its_own_is_dropped
        a_pause_frame_reaches_nobody
    }
    dma {
        a_descriptor_outside_faults_only_there
        dma_into_the_msi_window_faults
        dma_across_an_edge_faults
        dma_after_unmap_faults
        the_msi_window_cannot_be_mapped
    }
    reset {
        a_vf_resets_itself_in_mid_traffic
        an_flr_under_the_driver
        a_pf_reset_under_vfs
        a_pf_driver_that_comes_back_adopts_its_vfs
    }
    teardown {
        the_next_tenant_sees_nothing
        a_tenant_that_crashed_leaves_nothing
        vfs_are_disabled_in_mid_traffic
        a_revoked_vf_comes_back
        an_ejected_vf_leaves_others_alone
    }
    churn {
        tenants_come_and_go
        vfs_are_enabled_and_disabled
    }
    attack {
        lengths_out_of_bounds
        unknown_commands_and_blocks
        messages_that_lie_about_themselves
        a_vf_grants_itself_nothing
        filters_exhausted
        a_request_before_the_beginning
        versions_are_negotiated_once
        resets_on_resets
        ring_registers_of_nonsense
        config_space_of_nonsense
        interrupts_of_nonsense
        a_flood_of_requests
        invalid_requests_silence_nobody
        an_invalidation_storm
        a_late_answer_is_not_mistaken
        a_reset_ends_what_is_outstanding
        teardown_ends_what_is_outstanding
        eject_before_set_up_is_done
        a_pf_driver_without_the_token
        half_a_message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_for_our_card_alone_are_bodies() {
        for (name, _) in OUR_CARD_ONLY.iter().chain(NEEDS) {
            assert!(ALL.iter().any(|(known, _)| known == name), "{name}");
        }
    }
}
