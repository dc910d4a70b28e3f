/**
 * Boots a real systemd and proves what docs/operations.md says of the units: on two Debian machines, a server and a node.
 *
 *     npm run prove:systemd                      as root, on Debian; makes a clean Debian first (minutes)
 *     npm run prove:systemd -- --keep            keeps that Debian, and prints where
 *     npm run prove:systemd -- --root FOLDER     takes it again: three to four minutes on two cores
 *
 *     debootstrap ─▶ root folder ─▶ npm pack, npm install --global ─▶ two machines (namespaces, an overlay each) ─▶ the proofs, in order
 *
 * Needs a cgroup hierarchy of version 2 that may be written to, as Debian has; no KVM and no Docker. The last line counts what passed.
 */
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { scriptOptions } from '../../.config/script-options.ts'
import { makeCleanDebian, must } from '../support/clean-debian.ts'
import '../support/no-orphans.ts'
import { cgroupRoot, Machine, PREFIX, sweep } from './machine.ts'
import { PROOFS } from './proofs.ts'

const REPOSITORY = resolve(import.meta.dirname, '../..')
const PACKAGES = ['systemd-sysv', 'dbus', 'iproute2', 'nftables', 'procps', 'curl', 'ca-certificates']
/** There is no console, and no network that systemd sets up. */
const UNUSED = ['console-getty.service', 'systemd-networkd.service', 'systemd-networkd-wait-online.service']

const values = scriptOptions({
  name: 'npm run prove:systemd',
  about: 'Proves the systemd units on two booted Debian machines; as root, on Debian or Ubuntu.',
  options: {
    root: { kind: 'text', meaning: 'the root folder that an earlier run kept' },
    suite: { kind: 'text', default: 'bookworm', meaning: 'the release of Debian' },
    keep: { kind: 'flag', meaning: 'keeps the root folder for --root' },
  },
})

if (process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) fail('needs root on Debian or Ubuntu')
if (cgroupRoot() === undefined) fail('needs cgroups of version 2 that may be written to')
sweep()
const folder = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`))
const base = values.root ?? join(folder, 'debian')
const server = new Machine('server', base, folder)
const node = new Machine('node', base, folder)
let failed = 0
try {
  if (values.root === undefined) makeCleanDebian({ root: base, suite: values.suite, packages: PACKAGES })
  install()
  await Promise.all([server.boot(), node.boot()])
  await server.connect('203.0.113.10/24', node, '203.0.113.11/24')
  console.log(
    `${await server.must('systemctl --version | head -n 1')}; hedgerow ${await server.must('hedgerow --version')}`,
  )
  for (const proof of PROOFS) failed += (await passes(proof.name, () => proof.prove({ server, node }))) ? 0 : 1
} finally {
  await Promise.all([server.off(), node.off()])
  if (values.keep && values.root === undefined) keep()
  else rmSync(folder, { recursive: true, force: true })
}
console.log(`${PROOFS.length - failed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

/** As the README says, with Node 24 where a package of Node has it. */
function install(): void {
  const npm = { PATH: `${dirname(process.execPath)}:${process.env['PATH']}`, npm_config_update_notifier: 'false' }
  copyFileSync(process.execPath, join(base, 'usr/bin/node'))
  if (process.env['FAST'] === undefined)
    must(['npm', 'pack', '--prefix', REPOSITORY, '--pack-destination', folder], npm)
  const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz')) ?? ''
  rmSync(join(base, 'usr/lib/node_modules/hedgerow'), { recursive: true, force: true })
  must(
    [
      'npm',
      'install',
      '--global',
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
      '--prefix',
      join(base, 'usr'),
      join(folder, tarball),
    ],
    npm,
  )
  mkdirSync(join(base, 'srv/hedgerow'), { recursive: true })
  cpSync(join(REPOSITORY, 'examples'), join(base, 'srv/hedgerow/examples'), { recursive: true })
  rmSync(join(base, 'etc/machine-id'), { force: true })
  for (const unit of UNUSED) {
    const path = join(base, 'etc/systemd/system', unit)
    rmSync(path, { force: true })
    symlinkSync('/dev/null', path)
  }
}

async function passes(name: string, prove: () => Promise<void>): Promise<boolean> {
  const startedAt = performance.now()
  const said = await prove().then(
    () => undefined,
    (error: Error) => error.message,
  )
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1)
  console.log(`${said === undefined ? 'ok     ' : 'NOT OK '} ${name} (${seconds} s)`)
  if (said !== undefined) {
    const journals = [server, node].map((machine) => machine.run('journalctl -n 12 -o short-monotonic --no-hostname'))
    for (const text of [said, ...(await Promise.all(journals)).map(({ stdout }) => stdout)])
      console.log(text.trim().replace(/^/gm, '         '))
  }
  return said === undefined
}

function keep(): void {
  for (const name of ['server', 'node']) rmSync(join(folder, name), { recursive: true, force: true })
  console.log(`kept: ${base}`)
}

function fail(reason: string): never {
  console.log(`prove:systemd ${reason}`)
  process.exit(1)
}
