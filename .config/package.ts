/**
 * `npm run package`: what strangers install, with its own Node: an archive and a Debian package for an architecture.
 *
 *     hedgerow-VERSION-linux-ARCH.tar.gz     unpack anywhere; bin/hedgerow
 *     hedgerow_VERSION_DEBARCH.deb           the same below /usr, with systemd units, man pages and completions in their places
 *     SHA256SUMS                             of both
 *
 *     bin/hedgerow                           a shell script that starts lib/hedgerow/node
 *     lib/hedgerow/node                      of the npm package node-linux-ARCH, in the version of package-lock.json
 *     lib/hedgerow/dist/…                    the programs, each one file with all that it imports; no node_modules
 *     share/…                                man pages, completions, examples
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { SCRIPTS } from '../src/cli/completion/scripts.ts'
import { scriptOptions } from './script-options.ts'

const REPOSITORY = resolve(import.meta.dirname, '..')
/** Ours, and what Debian calls them. */
const ARCHITECTURES = { x64: 'amd64', arm64: 'arm64' } as const
type Arch = keyof typeof ARCHITECTURES
const ROLES = ['root', 'cluster', 'relay', 'agent'] as const

const { out, arch, fast } = scriptOptions({
  name: 'npm run package',
  about: 'Makes a self-contained archive and a Debian package.',
  options: {
    out: { kind: 'text', meaning: 'the folder', default: join(REPOSITORY, 'packages') },
    arch: { kind: 'text', meaning: 'x64 or arm64', default: process.arch },
    fast: { kind: 'flag', meaning: 'hardly compresses: for tests' },
  },
})
if (!Object.hasOwn(ARCHITECTURES, arch)) throw new Error(`no package for ${arch}: use x64 or arm64`)
const architecture = arch as Arch
const { version, description } = JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')) as Record<string, string>

/** The options of Node are those of the first line of src/hedgerow.js. */
const [, OPTIONS = ''] = /^#!.* node (.*)$/m.exec(readFileSync(join(REPOSITORY, 'src/hedgerow.js'), 'utf8')) ?? []
const LAUNCHER = `#!/bin/sh
# hedgerow ${version}, with its own Node
case $0 in /*) HEDGEROW_LAUNCHER=$0 ;; *) HEDGEROW_LAUNCHER=$PWD/$0 ;; esac
export HEDGEROW_LAUNCHER
here=$(readlink -f "$0")
lib=\${here%/bin/hedgerow}/lib/hedgerow
exec "$lib/node" ${OPTIONS} "$lib/dist/src/hedgerow.js" "$@"
`

const COPYRIGHT = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hedgerow

Files: *
License: Apache-2.0
 The whole license is in /usr/share/doc/hedgerow/LICENSE; on Debian systems also in /usr/share/common-licenses/Apache-2.0.
Comment: /usr/lib/hedgerow/node is Node.js, whose license is in node-license.txt; the licenses of what the programs contain are in
 third-party-licenses.txt.
`

/** Nothing is started, restarted or stopped by itself, except what is removed. */
const SCRIPTS_OF_DPKG = {
  postinst: `[ "$1" = configure ] || exit 0
getent passwd hedgerow > /dev/null ||
  useradd --system --user-group --home-dir /var/lib/hedgerow --no-create-home --shell /usr/sbin/nologin hedgerow
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
`,
  prerm: `[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then
  for role in agent relay cluster root; do systemctl disable --now hedgerow-$role || true; done
  # instances outlive their agent
  systemctl kill --signal=KILL hedgerow-agent 2> /dev/null || true
fi
`,
  postrm: `if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
[ "$1" = purge ] || exit 0
rm -rf /etc/hedgerow /var/lib/hedgerow /var/cache/hedgerow
if getent passwd hedgerow > /dev/null; then userdel hedgerow || true; fi
`,
}

const work = mkdtempSync(join(tmpdir(), 'hedgerow-package-'))
try {
  const name = `hedgerow-${version}-linux-${architecture}`
  const tree = join(work, name)
  layOut(tree)
  mkdirSync(out, { recursive: true })
  const archive = join(out, `${name}.tar.gz`)
  must('tar', ['-C', work, '--owner=0', '--group=0', '--sort=name', '-cf', join(work, 'archive.tar'), name])
  must('gzip', [fast ? '-1' : '-9', '-n', join(work, 'archive.tar')])
  place(join(work, 'archive.tar.gz'), archive)
  const made = [archive, ...(existsSync('/usr/bin/dpkg-deb') ? [makeDeb(tree)] : [])]
  const sums = made.map((file) => `${createHash('sha256').update(readFileSync(file)).digest('hex')}  ${basename(file)}\n`)
  writeFileSync(join(out, `SHA256SUMS.${architecture}`), sums.join(''))
  for (const file of made) console.log(`${file}  ${(statSync(file).size / 1_000_000).toFixed(1)} MB`)
} finally {
  rmSync(work, { recursive: true, force: true })
}

/** What the archive holds, and the Debian package below /usr. */
function layOut(tree: string): void {
  const lib = join(tree, 'lib/hedgerow')
  mkdirSync(lib, { recursive: true })
  must(process.execPath, [join(REPOSITORY, '.config/build.ts'), '--programs', '--page', '--out', join(lib, 'dist')])
  rmSync(join(lib, 'package.json'), { force: true }) // a link into this repository
  writeFileSync(join(lib, 'package.json'), `${JSON.stringify({ name: 'hedgerow', version, type: 'module' })}\n`)
  copyFileSync(nodeOf(architecture), join(lib, 'node'))
  chmodSync(join(lib, 'node'), 0o755)
  write(join(tree, 'bin/hedgerow'), LAUNCHER, 0o755)
  const man = join(tree, 'share/man/man1')
  mkdirSync(man, { recursive: true })
  for (const page of readdirSync(join(lib, 'dist/man')))
    writeFileSync(join(man, `${page}.gz`), gzipSync(readFileSync(join(lib, 'dist/man', page)), { level: 9 }))
  rmSync(join(lib, 'dist/man'), { recursive: true })
  write(join(tree, 'share/bash-completion/completions/hedgerow'), SCRIPTS.bash)
  write(join(tree, 'share/zsh/vendor-completions/_hedgerow'), SCRIPTS.zsh)
  write(join(tree, 'share/fish/vendor_completions.d/hedgerow.fish'), SCRIPTS.fish)
  const doc = join(tree, 'share/doc/hedgerow')
  mkdirSync(doc, { recursive: true })
  cpSync(join(REPOSITORY, 'docs'), doc, { recursive: true })
  for (const folder of ['systemd', 'prometheus', 'grafana'])
    cpSync(join(REPOSITORY, 'examples', folder), join(doc, 'examples', folder), { recursive: true })
  cpSync(join(REPOSITORY, 'examples/hello.yaml'), join(doc, 'examples/hello.yaml'))
  for (const file of ['LICENSE', 'README.md', 'ARCHITECTURE.md', 'CHANGELOG.md']) cpSync(join(REPOSITORY, file), join(doc, file))
  renameSync(join(lib, 'dist/third-party-licenses.txt'), join(doc, 'third-party-licenses.txt'))
  copyFileSync(join(dirname(dirname(nodeOf(architecture))), 'LICENSE'), join(doc, 'node-license.txt'))
}

/** The program of the npm package: the one that \`npm ci\` has installed, or fetched for another architecture. */
function nodeOf(of: Arch): string {
  const name = `node-linux-${of}`
  const places = ['node_modules', '.config/node24/node_modules'].map((folder) => join(REPOSITORY, folder, name, 'bin/node'))
  const found = places.find((path) => existsSync(path))
  if (found !== undefined) return found
  const fetched = join(work, name)
  const path = join(fetched, 'package/bin/node')
  if (existsSync(path)) return path
  const wanted = JSON.parse(readFileSync(join(REPOSITORY, '.config/node24/package.json'), 'utf8')) as {
    optionalDependencies: Record<string, string>
  }
  mkdirSync(fetched, { recursive: true })
  must('npm', ['pack', '--silent', `${name}@${wanted.optionalDependencies[name] ?? ''}`], fetched)
  const [packed = ''] = readdirSync(fetched)
  must('tar', ['-xzf', packed], fetched)
  return path
}

function makeDeb(tree: string): string {
  const root = join(work, 'deb')
  mkdirSync(root)
  renameSync(tree, join(root, 'usr'))
  const units = join(root, 'usr/lib/systemd/system')
  mkdirSync(units, { recursive: true })
  for (const role of ROLES) {
    const unit = `hedgerow-${role}.service`
    copyFileSync(join(REPOSITORY, 'examples/systemd', unit), join(units, unit))
    write(join(root, 'etc/hedgerow', `${role}.yaml`), configOf(role))
  }
  write(join(root, 'usr/share/doc/hedgerow/copyright'), COPYRIGHT)
  // a machine with this package has no other Node
  const hello = join(root, 'usr/share/doc/hedgerow/examples/hello.yaml')
  writeFileSync(hello, readFileSync(hello, 'utf8').replace('- node\n', '- /usr/lib/hedgerow/node\n'))
  const debArch = ARCHITECTURES[architecture]
  const sizeKb = Number(/^\d+/.exec(must('du', ['-sk', '--apparent-size', root]))?.[0] ?? 0)
  write(join(root, 'DEBIAN/control'), controlOf(debArch, sizeKb))
  write(join(root, 'DEBIAN/conffiles'), ROLES.map((role) => `/etc/hedgerow/${role}.yaml\n`).join(''))
  for (const [script, text] of Object.entries(SCRIPTS_OF_DPKG)) write(join(root, 'DEBIAN', script), `#!/bin/sh\nset -e\n${text}`, 0o755)
  must('chmod', ['-R', 'u=rwX,go=rX', root])
  const deb = join(out, `hedgerow_${version}_${debArch}.deb`)
  const how = fast ? ['-Zgzip', '-z1'] : ['-Zxz', '-z9']
  must('dpkg-deb', ['--root-owner-group', ...how, '--build', root, join(work, 'made.deb')])
  place(join(work, 'made.deb'), deb)
  return deb
}

function configOf(role: string): string {
  return `# Configuration of the ${role}: see hedgerow-${role}(1) and /usr/share/doc/hedgerow/configuration.md.
log: info
`
}

function controlOf(debArch: string, sizeKb: number): string {
  return `Package: hedgerow
Version: ${version}
Architecture: ${debArch}
Maintainer: The hedgerow maintainers <maintainers@hedgerow.invalid>
Installed-Size: ${sizeKb}
Depends: libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 8), passwd
Recommends: iproute2, nftables
Suggests: bash-completion
Section: net
Priority: optional
Description: service mesh and orchestrator for the edge
 ${description}.
 .
 Services call each other by name, through NATs and over mutual TLS. The package
 has its own Node.js, and systemd units for root, cluster, relay and agent,
 which it does not start by itself.
`
}

function write(path: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text, { mode })
}

/** From another file system, too; a name appears only with all of its bytes. */
function place(from: string, to: string): void {
  copyFileSync(from, `${to}.new`)
  renameSync(`${to}.new`, to)
}

function must(program: string, argv: readonly string[], cwd = REPOSITORY): string {
  const { status, stdout, stderr, error } = spawnSync(program, argv, { cwd, encoding: 'utf8' })
  if (status === 0) return stdout
  throw new Error(`${program} ${argv.join(' ')}: ${error?.message ?? `${stdout}${stderr}`.trim()}`)
}
