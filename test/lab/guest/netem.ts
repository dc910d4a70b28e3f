import { execFileSync, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { scriptOptions } from '../../../.config/script-options.ts'
import { librariesOf, which } from '../../../src/lab/this-machine.ts'

/*
 * Proves the lab's netem links on a real kernel that has netem, where the machine's own has not: `npm run prove:netem`, as root
 * on Debian. It boots Debian's cloud kernel under QEMU (no KVM needed, a few minutes) with an initramfs of this machine's own
 * node, ip, tc and nft, and runs the contract of links inside.
 *
 *     apt: kernel, qemu, busybox, cpio, kmod ─▶ folder ─▶ initramfs ─▶ qemu -nographic ─▶ `GUEST n passed, n failed`
 */
const PACKAGES = ['qemu-system-x86', 'busybox-static', 'cpio', 'kmod', 'iproute2', 'nftables']
const KERNEL = 'linux-image-cloud-amd64'
const MODULES = ['veth', 'bridge', 'sch_netem', 'nf_tables', 'nft_chain_nat', 'nft_masq', 'nft_ct', 'tun']
const REPOSITORY = join(import.meta.dirname, '../../..')
const SOURCES = [
  'src/core/kit',
  'src/core/errors.ts',
  'src/lab',
  'test/lab/guest',
  'test/contracts/link.ts',
  'package.json',
]
const GUEST_MS = 15 * 60_000

scriptOptions({
  name: 'npm run prove:netem',
  about: "Boots Debian's cloud kernel under QEMU and proves the lab's netem links there; as root, on Debian or Ubuntu.",
  options: {},
})
if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) {
  console.log('prove:netem needs root on Debian or Ubuntu')
  process.exit(1)
}
const folder = mkdtempSync(join(tmpdir(), 'hedgerow-guest-'))
try {
  const root = join(folder, 'root')
  mkdirSync(root)
  const kernel = installKernel(root)
  fill(root)
  const initramfs = join(folder, 'initramfs')
  run('sh', ['-c', `cd ${root} && find . | cpio --quiet -o -H newc > ${initramfs}`])
  process.exitCode = (await boot(kernel, initramfs)) ? 0 : 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}

/** Unpacks the kernel and the modules that are needed; returns the kernel's path. */
function installKernel(root: string): string {
  console.log(`apt-get install ${PACKAGES.join(' ')}; apt-get download ${KERNEL}`)
  run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...PACKAGES])
  const depends = execFileSync('apt-cache', ['depends', KERNEL], { encoding: 'utf8' })
  const image = /Depends: (linux-image-\S+-cloud-amd64)/.exec(depends)?.[1]
  if (image === undefined) throw new Error(`${KERNEL} is not known here: apt-get update`)
  execFileSync('apt-get', ['download', '-qq', image], { cwd: folder, stdio: 'inherit' })
  const unpacked = join(folder, 'kernel')
  const [archive = ''] = readdirSync(folder).filter((name) => name.endsWith('.deb'))
  run('dpkg', ['-x', join(folder, archive), unpacked])
  const [version = ''] = readdirSync(join(unpacked, 'lib/modules'))
  run('depmod', ['-b', unpacked, version])
  const wanted = execFileSync('modprobe', ['-d', unpacked, '-S', version, '--show-depends', '-a', ...MODULES], {
    encoding: 'utf8',
  })
  for (const [, path = ''] of wanted.matchAll(/^insmod (\S+)/gm)) {
    const to = join(root, path.slice(unpacked.length))
    mkdirSync(dirname(to), { recursive: true })
    cpSync(path, to)
  }
  const modules = join('lib/modules', version)
  for (const name of readdirSync(join(unpacked, modules)).filter((name) => name.startsWith('modules.'))) {
    cpSync(join(unpacked, modules, name), join(root, modules, name))
  }
  return join(unpacked, 'boot', `vmlinuz-${version}`)
}

/** This machine's programs with the libraries they load, the lab, and an init that runs the proof and powers off. */
function fill(root: string): void {
  // the machine's own sh: the one in busybox runs its own `ip` whatever PATH says
  const programs = [process.execPath, ...['sh', 'ip', 'tc', 'nft'].map(needed)]
  for (const program of programs) {
    copyFile(program, root)
    for (const path of librariesOf(program)) copyFile(path, root)
  }
  const busybox = needed('busybox')
  copyFile(busybox, root)
  for (const source of SOURCES) cpSync(join(REPOSITORY, source), join(root, 'repository', source), { recursive: true })
  for (const name of ['proc', 'sys', 'dev', 'run', 'tmp', 'etc', 'var/run', 'bin'])
    mkdirSync(join(root, name), { recursive: true })
  const init = `#!${needed('sh')}
${busybox} --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp && mount -t tmpfs run /run && ip link set lo up
for module in ${MODULES.join(' ')}; do modprobe $module || echo "no module $module"; done
cd /repository && ${process.execPath} test/lab/guest/proof.ts
poweroff -f
`
  writeFileSync(join(root, 'init'), init, { mode: 0o755 })
}

function copyFile(path: string, root: string): void {
  const to = join(root, path)
  if (existsSync(to)) return
  mkdirSync(dirname(to), { recursive: true })
  cpSync(realpathSync(path), to)
}

function needed(program: string): string {
  const found = which(program)
  if (found === undefined) throw new Error(`${program} is missing`)
  return found
}

function boot(kernel: string, initramfs: string): Promise<boolean> {
  const argv = ['-accel', 'tcg', '-smp', '2', '-m', '1500', '-nographic', '-no-reboot', '-kernel', kernel]
  const append = 'console=ttyS0 quiet panic=-1'
  console.log(`booting ${basename(kernel)} under QEMU (emulated: a few minutes)`)
  const qemu = spawn('qemu-system-x86_64', [...argv, '-initrd', initramfs, '-append', append], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const late = setTimeout(() => qemu.kill('SIGKILL'), GUEST_MS)
  let isProven = false
  createInterface({ input: qemu.stdout }).on('line', (line) => {
    console.log(line)
    if (/^GUEST \d+ passed, 0 failed/.test(line)) isProven = true
  })
  return new Promise((resolve) => {
    qemu.on('exit', () => {
      clearTimeout(late)
      resolve(isProven)
    })
  })
}

function run(program: string, argv: readonly string[]): void {
  execFileSync(program, argv, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
}
