# Properties of the targets, to be sourced by the scripts.

TARGETS="aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf arm-unknown-linux-musleabihf
    x86_64-unknown-linux-musl riscv64gc-unknown-linux-musl"

# emulator TARGET: the command that emulates the processor of the board
emulator() {
    case $1 in
        arm-*) echo qemu-arm-static -cpu arm1176 ;;           # Pi 1, Zero
        armv7-*) echo qemu-arm-static -cpu cortex-a7 ;;       # Pi 2
        aarch64-*) echo qemu-aarch64-static -cpu cortex-a53 ;; # Pi 3, Zero 2
        riscv64gc-*) echo qemu-riscv64-static -cpu rv64 ;;
        x86_64-*) echo qemu-x86_64-static -cpu qemu64 ;;
        *) unknown "$1" ;;
    esac
}

# architecture TARGET: the name of Debian. Raspberry Pi OS has one armhf for ARMv6 and ARMv7; the binary for
# ARMv6 runs on both.
architecture() {
    case $1 in
        aarch64-*) echo arm64 ;;
        arm-*) echo armhf ;;
        x86_64-*) echo amd64 ;;
        *) unknown "$1" ;;
    esac
}

unknown() {
    echo "$0: unknown target $1; the targets: "$TARGETS >&2
    exit 2
}
