use culvert_benches::scene;
use culvert_core::channel::Encap;
fn main() {
    let which = std::env::args().nth(1).unwrap();
    let (frames, encap) = match which.as_str() {
        "encap" => (scene::from_pod(10_000), Encap::Vxlan),
        "encap-ipip" => (scene::from_pod(10_000), Encap::Ipip),
        "decap" => (scene::from_tunnel(10_000, Encap::Vxlan), Encap::Vxlan),
        _ => (scene::from_tunnel(10_000, Encap::Ipip), Encap::Ipip),
    };
    let mut storage = scene::storage(10_000, encap);
    let mut gateway = storage.gateway();
    let mut slots = frames.slots();
    let mut packets = frames.packets(&mut slots);
    scene::process(&mut gateway, frames.ingress, &mut packets);
    assert!(packets.iter().all(|p| matches!(p.fate, culvert_core::Fate::Forward(_))));
}
