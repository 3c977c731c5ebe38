//! What `make e2e` does on two real nodes: install the chart in each mode, replace gateways and
//! backends under load, and count what a client lost.
//!
//! Started by `scripts/cluster`, which makes the namespaces before and takes everything away after,
//! however this process ends: nothing here has to clean up. Progress goes to stdout, one line each.

mod balancer;
mod cases;
mod control;
mod load;
mod node;
mod processes;
mod say;
mod site;

use std::path::PathBuf;
use std::process::ExitCode;

use site::Site;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, mode, state] = arguments.as_slice() else {
        eprintln!("started by scripts/cluster, with a plan, a mode and a folder");
        return ExitCode::from(2);
    };
    let site = Site::bring_up(PathBuf::from(state));
    let fine = match plan.as_str() {
        "up" => {
            say::line(&format!(
                "up; `ip netns exec gatehouse-cluster-outside env KUBECONFIG={} bash` reaches them, and Ctrl-C ends them",
                site.kubeconfig().display()
            ));
            std::thread::park();
            true
        }
        plan => cases::run(&site, plan == "full", mode),
    };
    if fine {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
