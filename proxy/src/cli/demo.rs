//! `postern demo`: the whole of it on one machine, each claim seen to hold.
//!
//! The embedded identity provider and an application run in this process; the two sidecars are processes of their own,
//! with configuration files that are printed. Nothing here knows more of the sidecars than a user could see: their
//! answers, their access logs, their sockets.

mod client;
mod scene;

use anyhow::{Context as _, ensure};
use clap::Args;
use client::{Load, get, tunnel};
use scene::Scene;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the load runs before, between and after the rotations.
const BETWEEN_STAGES: Duration = Duration::from_millis(1500);
/// A claim that waits for an event fails after this.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct DemoArgs {
    /// End after the last step; exit 0 only if each of them came true
    #[arg(long)]
    once: bool,
}

/// # Errors
/// The stage could not be built. Claims that do not hold are reported, and make the exit code 1.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let scene = Scene::build().await.context("the demo's stage could not be built")?;
    let mut story = Story { started: Instant::now(), failed: 0 };
    println!("\nWhat happens now:\n");
    story.tell("an allowed request", allowed(&scene).await);
    story.tell("a refusal by identity", refused_by_identity(&scene).await);
    story.tell("a refusal by route", refused_by_route(&scene).await);
    story.tell("a peer of another trust domain", refused_by_trust_domain(&scene).await);
    rotations(&scene, &mut story).await;
    println!();
    if story.failed > 0 {
        println!(
            "{} of the claims did not come true; the sidecars' logs are in {}",
            story.failed,
            scene.directory.display()
        );
        scene.keep_files();
        return Ok(ExitCode::FAILURE);
    }
    println!("Each of these came true.");
    if !args.once {
        scene.print_commands();
        tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Story {
    started: Instant,
    failed: usize,
}

impl Story {
    fn tell(&mut self, claim: &str, outcome: anyhow::Result<String>) {
        let at = self.started.elapsed().as_secs_f64();
        match outcome {
            Ok(what) => println!("  {at:7.3} s  ok    {claim}: {what}"),
            Err(error) => {
                self.failed += 1;
                println!("  {at:7.3} s  FAIL  {claim}: {error:#}");
            }
        }
    }
}

async fn allowed(scene: &Scene) -> anyhow::Result<String> {
    let started = Instant::now();
    let answer = get(scene.ports.as_web, "/orders/7").await?;
    let took = started.elapsed();
    ensure!(answer.status == 200, "status {} instead of 200", answer.status);
    ensure!(
        answer.body.contains("spiffe://shop.example/web"),
        "the application was not told who called: {}",
        answer.body
    );
    Ok(format!("200 in {took:.1?}; the application was told the caller is spiffe://shop.example/web"))
}

async fn refused_by_identity(scene: &Scene) -> anyhow::Result<String> {
    let answer = get(scene.ports.as_batch, "/orders/7").await?;
    ensure!(answer.status == 403, "status {} instead of 403", answer.status);
    refusal_in_records(scene, &answer, "not_allowed").await?;
    Ok(format!("spiffe://shop.example/batch got 403, decision {}; both sidecars recorded not_allowed", answer.decision))
}

async fn refused_by_route(scene: &Scene) -> anyhow::Result<String> {
    let answer = get(scene.ports.as_web, "/admin").await?;
    ensure!(answer.status == 403, "status {} instead of 403", answer.status);
    refusal_in_records(scene, &answer, "no_route").await?;
    Ok(format!("/admin got 403, decision {}; both sidecars recorded no_route", answer.decision))
}

async fn refused_by_trust_domain(scene: &Scene) -> anyhow::Result<String> {
    let answer = get(scene.ports.as_stranger, "/orders/7").await?;
    ensure!(answer.status == 502 || answer.status == 503, "status {} instead of 502", answer.status);
    scene.server_record(WAIT_MAX, |record| record["refusal"] == "peer_not_verified").await?;
    Ok(format!("{}; the server's sidecar ended the handshake and recorded peer_not_verified", answer.status))
}

/// The callee's sidecar decided, the caller's learned why, the application saw the decision id only.
async fn refusal_in_records(scene: &Scene, answer: &client::Answer, code: &str) -> anyhow::Result<()> {
    ensure!(!answer.decision.is_empty(), "the answer names no decision");
    scene.server_record(WAIT_MAX, |record| record["decision"] == answer.decision && record["refusal"] == code).await?;
    scene
        .client_record(WAIT_MAX, |record| {
            record["refusal.remote_decision"] == answer.decision && record["refusal.remote"] == code
        })
        .await?;
    Ok(())
}

/// Two rotations of the SVIDs and a staged one of the authority, all under load.
async fn rotations(scene: &Scene, story: &mut Story) {
    let load = Load::start(scene.ports.as_web, "/orders/7");
    let live = match tunnel(scene.ports.ledger).await {
        Ok(live) => live,
        Err(error) => return story.tell("a live L4 connection", Err(error)),
    };
    for round in 1..=2 {
        tokio::time::sleep(BETWEEN_STAGES).await;
        let result = scene.provider.rotate_svids();
        let told = result.map(|()| "every workload got a new one".to_owned()).context("the provider cannot rotate");
        story.tell(&format!("SVID rotation {round} under load"), told);
    }
    tokio::time::sleep(BETWEEN_STAGES).await;
    let cut = rotate_authority(scene, live).await;
    tokio::time::sleep(BETWEEN_STAGES).await;
    let (requests, failures) = load.stop().await;
    story.tell("a live connection whose authority is withdrawn", cut);
    let seen = scene.server_svids_seen();
    let outcome = if !failures.is_empty() {
        Err(anyhow::anyhow!("{} of {requests} requests failed, the first: {}", failures.len(), failures[0]))
    } else if requests == 0 {
        Err(anyhow::anyhow!("the load made no request"))
    } else if seen < 4 {
        Err(anyhow::anyhow!("the load saw {seen} SVIDs of the server instead of 4: it did not follow the rotations"))
    } else {
        Ok(format!("{requests} requests, none failed; they met {seen} SVIDs of the server in turn"))
    };
    story.tell("two SVID rotations and a CA rotation under load", outcome);
}

/// Publish, re-issue, wait, remove. The tunnel was made before: it has outlived the rotations so far, and ends with the
/// authority that vouched for it.
async fn rotate_authority(scene: &Scene, mut live: TcpStream) -> anyhow::Result<String> {
    let domain = &scene.trust_domain;
    scene.provider.publish_new_authority(domain)?;
    tokio::time::sleep(BETWEEN_STAGES).await;
    scene.provider.reissue(domain)?;
    tokio::time::sleep(BETWEEN_STAGES).await;
    live.write_all(b"ping").await.context("the tunnel ended before its authority did")?;
    let mut echo = [0; 4];
    live.read_exact(&mut echo).await.context("the tunnel ended before its authority did")?;
    let withdrawn = Instant::now();
    scene.provider.remove_old_authorities(domain)?;
    let ended = tokio::time::timeout(WAIT_MAX, live.read(&mut echo)).await.context("it was not cut")?;
    let took = withdrawn.elapsed();
    ensure!(!matches!(ended, Ok(count) if count > 0), "bytes instead of an end");
    Ok(format!("cut {took:.1?} after the provider withdrew it; it had outlived the SVID rotations"))
}
