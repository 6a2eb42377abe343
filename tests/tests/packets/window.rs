//! The receive window in what leaves this host: whose is made smaller, by how
//! much, and with a right checksum.

use super::Test;
use super::build::{Flags, Form, forms};
use anyhow::{Context, Result, ensure};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_EXEMPT, Class, SETTING_OBSERVE};
use shaper_common::control::op;
use shaper_common::key::TCP;
use shaper_tests::testbed::{DROP, Hook, PASS, Testbed, key, policy};

pub const TESTS: &[(&str, Test)] = &[
    ("the_window_is_set_in_every_form_of_headers", every_form),
    ("the_window_never_takes_back_what_it_offered", never_back),
    ("windows_of_others_are_left_alone", left_alone),
    ("a_syn_ack_offers_an_initial_window", syn_ack),
    ("beyond_the_window_there_is_no_leeway", beyond),
];

const SCALE: u64 = 7;
/// The window that every form carries.
const KERNEL: u16 = 65_535;

/// 8 Mbit/s, 100 kB: `packets` of them are used up in no time.
fn class() -> Class {
    Class {
        upload: Limit::new(8_000_000, 100_000),
        ..Class::default()
    }
}

fn reply(form: Form) -> Form {
    Form {
        reply: true,
        payload: 0,
        ..form
    }
}

/// Adopted with a known scale; `form` is the client's or the reply.
fn open(testbed: &Testbed, form: &Form, scale: u64) -> Result<()> {
    let key = key(form.client, form.client_port, form.local(), TCP);
    ensure!(testbed.control(op::ADOPT, key, scale + 1)?, "not adopted");
    Ok(())
}

/// The window that leaves, after the checksum was compared.
fn leaves(testbed: &Testbed, form: &Form) -> Result<u16> {
    let (verdict, packet) = testbed.run_out(Hook::Egress, &form.build())?;
    ensure!(verdict == PASS, "verdict {verdict}");
    let headers = PacketHeaders::from_ethernet_slice(&packet)?;
    let Some(TransportHeader::Tcp(tcp)) = headers.transport else {
        anyhow::bail!("not TCP any more");
    };
    let payload = headers.payload.slice();
    let checksum = match headers.net.context("not IP any more")? {
        NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, payload)?,
        NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, payload)?,
        NetHeaders::Arp(_) => anyhow::bail!("not IP any more"),
    };
    ensure!(tcp.checksum == checksum, "checksum of {form:?}");
    Ok(tcp.window_size)
}

fn every_form() -> Result<()> {
    for form in forms() {
        if form.udp || form.extra == super::build::Extra::FirstFragment {
            continue;
        }
        let testbed = Testbed::new(&policy(class(), &[]))?;
        open(&testbed, &form, SCALE)?;
        let window = leaves(&testbed, &reply(form.clone()))?;
        // A flow that has sent nothing yet is offered ten segments.
        ensure!((90..=114).contains(&window), "{window} in {form:?}");
        // With payload too.
        let data = Form {
            payload: 500,
            ..reply(form.clone())
        };
        ensure!(leaves(&testbed, &data)? <= 114, "{form:?}");
    }
    Ok(())
}

fn never_back() -> Result<()> {
    let testbed = Testbed::new(&policy(class(), &[]))?;
    let form = Form::v4();
    open(&testbed, &form, SCALE)?;
    let before = leaves(&testbed, &reply(form.clone()))?;
    for _ in 0..200 {
        testbed.run(Hook::Ingress, &form.build())?;
    }
    // Twice the burst is owed, and the edge stands where it stood.
    ensure!(leaves(&testbed, &reply(form))? == before);
    Ok(())
}

fn left_alone() -> Result<()> {
    let form = Form::v4();
    let cases = [
        ("no limit", Class::default(), 0, SCALE + 1, Flags::Data),
        (
            "exempt",
            Class {
                flags: CLASS_EXEMPT,
                ..class()
            },
            0,
            SCALE + 1,
            Flags::Data,
        ),
        ("observe", class(), SETTING_OBSERVE, SCALE + 1, Flags::Data),
        ("an unknown scale", class(), 0, 0, Flags::Data),
        ("a reset", class(), 0, SCALE + 1, Flags::Rst),
    ];
    for (name, class, settings, scale, flags) in cases {
        let mut compiled = policy(class, &[]);
        compiled.settings.flags = settings;
        let testbed = Testbed::new(&compiled)?;
        let key = key(form.client, form.client_port, form.local(), TCP);
        ensure!(testbed.control(op::ADOPT, key, scale)?);
        let packet = Form {
            flags,
            ..reply(form.clone())
        };
        let window = leaves(&testbed, &packet)?;
        ensure!(window == KERNEL, "{name}: {window}");
    }
    // A window that is smaller than what the limit allows.
    let fast = Class {
        upload: Limit::new(400_000_000_000, 1 << 33),
        ..Class::default()
    };
    let testbed = Testbed::new(&policy(fast, &[]))?;
    open(&testbed, &form, 0)?;
    for _ in 0..70 {
        testbed.run(Hook::Ingress, &form.build())?;
    }
    ensure!(leaves(&testbed, &reply(form))? == KERNEL, "a small window");
    Ok(())
}

fn syn_ack() -> Result<()> {
    let testbed = Testbed::new(&policy(class(), &[]))?;
    let syn = Form {
        flags: Flags::Syn,
        payload: 0,
        ..Form::v4()
    };
    let answer = Form {
        flags: Flags::SynAck,
        ..reply(Form::v4())
    };
    testbed.run(Hook::Ingress, &syn.build())?;
    let window = leaves(&testbed, &answer)?;
    ensure!(window == 12_500, "{window}: an eighth of the burst");
    // Nobody asked.
    let stranger = Form {
        client_port: 50_999,
        ..answer
    };
    ensure!(leaves(&testbed, &stranger)? == KERNEL);
    Ok(())
}

/// How many packets of the client pass.
fn passes(testbed: &Testbed, form: &Form) -> Result<u64> {
    let packet = form.build();
    let mut passed = 0;
    while testbed.run(Hook::Ingress, &packet)? != DROP {
        passed += 1;
        ensure!(passed < 10_000, "never dropped");
    }
    Ok(passed)
}

fn beyond() -> Result<()> {
    let slow = Class {
        upload: Limit::new(10_000, 20_000),
        ..Class::default()
    };
    // Within its window (sequence number 1 of 10 segments) a sender has leeway.
    let testbed = Testbed::new(&policy(slow, &[]))?;
    let form = Form::v4();
    open(&testbed, &form, SCALE)?;
    leaves(&testbed, &reply(form.clone()))?;
    let within = passes(&testbed, &form)?;
    // An acknowledgement far behind: everything is beyond the window.
    drop(testbed);
    let testbed = Testbed::new(&policy(slow, &[]))?;
    open(&testbed, &form, SCALE)?;
    let behind = Form {
        ack: 1 << 31,
        ..reply(form.clone())
    };
    leaves(&testbed, &behind)?;
    let rude = passes(&testbed, &form)?;
    // 1052 bytes each: the burst, and 64 KiB and a second more.
    ensure!(
        (19..=21).contains(&rude),
        "{rude} packets beyond the window"
    );
    ensure!((80..=90).contains(&within), "{within} packets within it");
    Ok(())
}
