//! Builds LuaJIT from the sources in the `luajit-src` crate, and the host around it.

fn main() {
    let artifacts = luajit_src::Build::new().build();
    println!("cargo:rerun-if-changed=../host.c");
    cc::Build::new().file("../host.c").include(artifacts.include_dir()).opt_level(2).warnings(true).compile("host");
    artifacts.print_cargo_metadata();
    println!("cargo:rustc-link-lib=m");
}
