//! The process that compiles, and what is kept of its work.

use super::guests::{NOTHING, session};
use super::*;

/// A component that parses and whose code is not valid.
fn invalid() -> Vec<u8> {
    let mut bytes = session(&format!("{NOTHING} (func (result i32) (i32.const 77777))"));
    let constant = [0x41, 0xd1, 0xdf, 0x04];
    let at = bytes.windows(4).position(|window| window == constant).expect("the constant is there");
    // Four times `nop`, so that there is no result.
    bytes[at..at + 4].copy_from_slice(&[1; 4]);
    bytes
}

/// A component that has 70 MiB of nothing in a custom section: more than the allocator of a process that has just
/// been confined has put by.
fn padded() -> Vec<u8> {
    const PADDING: u32 = 70 << 20;
    let mut bytes = session(NOTHING);
    bytes.push(0);
    // The length as LEB128 in five bytes, then an empty name.
    let mut rest = PADDING + 1;
    for _ in 0..4 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.extend([rest as u8, 0]);
    bytes.resize(bytes.len() + PADDING as usize, 0);
    bytes
}

#[tokio::test]
async fn what_does_not_compile_is_refused_with_the_reason() {
    let rig = Rig::new();
    let refused = rig.refused(&invalid()).await;
    assert!(matches!(&refused, Rejection::DoesNotCompile(why) if why.contains("type mismatch")), "{refused}");
    let plugins = PluginsConfig { compile_memory: 64 << 20, ..config() };
    let rig = Rig::with(plugins, NodeKey::random());
    let limits = TenantPlugins { code_bytes: 128 << 20, ..settings("acme").limits };
    let refused = rig.host.prepare(padded().into(), &Settings { limits, ..settings("acme") }).await;
    assert_eq!(refused.unwrap_err(), Rejection::CompileMemory(64));
    let plugins = PluginsConfig { compile_timeout: Duration::ZERO, ..config() };
    let rig = Rig::with(plugins, NodeKey::random());
    assert_eq!(rig.refused(PROBE).await, Rejection::CompileTime(0));
}

#[tokio::test]
async fn a_compiler_that_is_not_there_is_the_nodes_fault() {
    let services =
        Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: Metrics::default() };
    let compiler = CompileCommand { program: "/nonexistent/tidegate".into(), arguments: Vec::new() };
    let config = HostConfig { plugins: config(), compiler, key: NodeKey::random() };
    let host = PluginHost::start(config, services).unwrap();
    let refused = host.prepare(Bytes::from_static(PROBE), &settings("acme")).await.unwrap_err();
    assert!(refused.is_nodes(), "{refused}");
}

#[tokio::test]
async fn machine_code_is_kept_and_believed_only_if_it_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let plugins = PluginsConfig { folder: Some(folder.path().to_owned()), ..config() };
    let code = session(NOTHING);
    let rig = Rig::with(plugins.clone(), NodeKey::new(b"one"));
    rig.plugin(&code, settings("acme")).await;
    drop(rig);
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let made = std::fs::read(&file).unwrap();
    let mark = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();

    // With no compiler at hand only what is kept can be had.
    let start = |key: &[u8]| {
        let services =
            Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: Metrics::default() };
        let compiler = CompileCommand { program: "/nonexistent/tidegate".into(), arguments: Vec::new() };
        let config = HostConfig { plugins: plugins.clone(), compiler, key: NodeKey::new(key) };
        PluginHost::start(config, services).unwrap()
    };
    let prepare = async |key: &[u8]| start(key).prepare(code.clone().into(), &settings("acme")).await;
    assert!(prepare(b"one").await.is_ok(), "kept");
    assert!(prepare(b"two").await.unwrap_err().is_nodes(), "another node's");
    for at in [0, 31, 32, made.len() / 2, made.len() - 1] {
        let mut tampered = made.clone();
        tampered[at] ^= 1;
        mark(&tampered);
        assert!(prepare(b"one").await.unwrap_err().is_nodes(), "tampered with at {at}");
    }
    mark(&made[..20]);
    assert!(prepare(b"one").await.unwrap_err().is_nodes(), "cut");
    mark(&made);
    assert!(prepare(b"one").await.is_ok());
}

#[tokio::test]
async fn what_does_not_start_is_not_kept() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("plugins");
    let plugins = PluginsConfig { folder: Some(folder.clone()), ..config() };
    let rig = Rig::with(plugins, NodeKey::random());
    let trap = session(&format!("{NOTHING} (func $s unreachable) (start $s)"));
    for refused in [trap, super::guests::wrong_types(), invalid()] {
        rig.refused(&refused).await;
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
    rig.plugin(&session(NOTHING), settings("acme")).await;
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "what starts is");
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let plugins = PluginsConfig { folder: Some(folder.path().to_owned()), ..config() };
    let services =
        Services { backbone: Embedded::new(Arc::new(DirtySet::default())), metrics: Metrics::default() };
    let config = HostConfig { plugins, compiler: compiler(), key: NodeKey::random() };
    let refused = PluginHost::start(config, services).err().expect("refused").to_string();
    assert!(refused.contains("nobody else can write"), "{refused}");
}
