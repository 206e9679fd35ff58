//! A host with control groups of version 2 only, as current distributions boot.

use lab::{Engine, Image, Options};
use predicates::str::contains;

use crate::support::{RUN, cached, compose, names, program, prune, remember};

#[test]
fn on_cgroup_v2_a_run_is_seen_and_an_idle_image_is_evicted() {
    let engine = Engine::start_with(Options { cgroup_v2: true, ..Options::default() });
    assert_eq!(engine.docker(["info", "--format", "{{.CgroupVersion}}"]), "2");
    let idle = cached(&engine, &Image::new("idle", "1").size_mib(8));
    engine.publish(&Image::new("app", "1"));
    engine.deploy(RUN, &compose(&["127.0.0.1:5000/app:1"]));
    program(&engine).arg("runs").assert().code(3).stdout(contains(RUN));
    program(&engine).arg("converge").assert().success();
    engine.tear_down(RUN);
    remember(&engine, &[(&engine.image_id(&idle), 30)]);
    engine.fill_to(85);
    assert_eq!(names(&prune(&engine, "")["removed"]), ["idle"]);
}
