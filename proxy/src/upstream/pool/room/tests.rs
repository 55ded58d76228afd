use super::make;
use crate::policy::Policy;
use crate::telemetry::Metrics;
use crate::upstream::discovery::Discovery;
use crate::upstream::plan::ServicePlan;
use crate::upstream::pool::{Active, CALLERS_MAX, Upstreams};
use postern_config::Config;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

fn app() -> Arc<ServicePlan> {
    let text = "inbound:\n  - { port: 8080, listen: '127.0.0.1:1', allow: [{ anonymous: true }], tls: 'off' }\n";
    let config = Config::from_str(Path::new("f"), text).expect("right");
    let policy = Policy::compile(&config, None, &Metrics::new()).expect("compiled");
    let door = crate::policy::Door::At("127.0.0.1:1".parse().expect("an address"));
    policy.inbound(&door).expect("there").app.clone()
}

fn caller(number: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(0xfd77 << 112 | number as u128))
}

/// Whoever has a /64 can be as many callers as he likes.
#[tokio::test]
async fn who_fills_a_table_keeps_nobody_out_and_ends_nothing_that_is_in_use() {
    let (upstreams, app) = (Upstreams::default(), app());
    let discovery = Arc::new(Discovery::new(Handle::current()));
    let first = upstreams.of_caller(&app, caller(0)).expect("room");
    let busy = Active::at(&upstreams.get(&first, &discovery).expect("room").pick(&[]).await.expect("an endpoint"));
    for number in 1..CALLERS_MAX + 10 {
        let plan = upstreams.of_caller(&app, caller(number)).expect("room for one more");
        upstreams.get(&plan, &discovery).expect("room");
    }
    let again = upstreams.of_caller(&app, caller(0)).expect("known");
    assert!(Arc::ptr_eq(&first, &again), "what carries a request stays");
    assert!(upstreams.callers.borrow().len() <= CALLERS_MAX);
    assert!(upstreams.by_plan.borrow().len() <= CALLERS_MAX, "pools go with their callers");
    let latest = upstreams.of_caller(&app, caller(CALLERS_MAX + 9)).expect("known");
    assert!(
        upstreams.by_plan.borrow().contains_key(&(Arc::as_ptr(&latest) as usize)),
        "the latest is not the first to go"
    );
    drop(busy);
}

#[tokio::test]
async fn a_table_of_nothing_but_busy_ones_has_no_room() {
    let (upstreams, app) = (Upstreams::default(), app());
    let discovery = Arc::new(Discovery::new(Handle::current()));
    let plan = upstreams.of_caller(&app, caller(0)).expect("room");
    let busy = Active::at(&upstreams.get(&plan, &discovery).expect("room").pick(&[]).await.expect("an endpoint"));
    let make = || make(&mut upstreams.callers.borrow_mut(), &mut upstreams.by_plan.borrow_mut(), 1);
    assert!(!make());
    drop(busy);
    assert!(make());
    assert!(upstreams.callers.borrow().is_empty());
}
