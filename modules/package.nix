# The program, with its man page and completions.
{
  lib,
  stdenv,
  rustc,
  rustPlatform,
  installShellFiles,
  nix-update-script,
  versionCheckHook,
  # The git revision that `--version` shows.
  revision ? null,
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
in
rustPlatform.buildRustPackage (finalAttrs: {
  pname = manifest.name;
  inherit (manifest) version;

  # The tests are members of the same workspace, so cargo wants to find them.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../benches/Cargo.toml
      ../benches/src
      ../docs/ci-systems.md
      ../src
      ../tests/it
      ../tests/host.rs
      ../tests/lab/Cargo.toml
      ../tests/lab/src
      ../tests/sim/Cargo.toml
      ../tests/sim/src
      ../tests/style.rs
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  env = lib.optionalAttrs (revision != null) { CI_DOCKER_PRUNE_REVISION = revision; };

  # The other tests start Docker engines, which a build sandbox cannot.
  cargoTestFlags = [ "--lib" ];

  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd ci-docker-prune \
      --bash <($out/bin/ci-docker-prune completions bash) \
      --fish <($out/bin/ci-docker-prune completions fish) \
      --zsh <($out/bin/ci-docker-prune completions zsh)
    $out/bin/ci-docker-prune man > ci-docker-prune.1
    installManPage ci-docker-prune.1
  '';

  doInstallCheck = true;
  nativeInstallCheckInputs = [ versionCheckHook ];

  passthru.updateScript = nix-update-script { };

  meta = {
    inherit (manifest) description;
    license = lib.licenses.mit;
    maintainers = [ ];
    mainProgram = finalAttrs.pname;
    platforms = lib.platforms.linux;
    # NixOS 25.11 and later have it; said in the evaluation, and not after minutes of downloads.
    broken = lib.versionOlder rustc.version manifest.rust-version;
  }
  # Where Cargo.toml says where the project lives.
  // lib.optionalAttrs (manifest ? repository) {
    homepage = manifest.repository;
    changelog = "${manifest.repository}/blob/main/CHANGELOG.md";
  };
})
