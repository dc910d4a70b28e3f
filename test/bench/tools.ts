import { execFileSync } from 'node:child_process'
import { arch, cpus, release, totalmem } from 'node:os'
import { hasTool, installTools } from '../../src/lab/system-tools.ts'

/** The public programs a row may need, the Debian package each comes in, and how each says its version. */
const TOOLS = {
  wrk: { package: 'wrk', version: ['wrk', '-v'] },
  iperf3: { package: 'iperf3', version: ['iperf3', '--version'] },
  dnsperf: { package: 'dnsperf', version: ['dnsperf', '-h'] },
  haproxy: { package: 'haproxy', version: ['haproxy', '-v'] },
  nebula: { package: 'nebula', version: ['nebula', '-version'] },
  'wireguard-go': { package: 'wireguard-go', version: ['wireguard-go', '--version'] },
  wg: { package: 'wireguard-tools', version: ['wg', '--version'] },
  dnsmasq: { package: 'dnsmasq-base', version: ['dnsmasq', '-v'] },
  /** Not in Debian 12: built from the Go registry, or left out. */
  coredns: { package: undefined, version: ['coredns', '-version'] },
  openssl: { package: 'openssl', version: ['openssl', 'version'] },
} as const

export type Tool = keyof typeof TOOLS

/** Installs what is missing (as root, saying so), unless told not to; returns what is there. */
export function ready(wanted: ReadonlySet<Tool>, mayInstall: boolean, say: (line: string) => void): Set<Tool> {
  const missing = [...wanted].filter((tool) => !hasTool(tool))
  const packages = [...new Set(missing.flatMap((tool) => TOOLS[tool].package ?? []))]
  if (mayInstall) installTools(packages, say)
  else if (missing.length > 0) say(`missing ${missing.join(', ')}, and --no-install was given`)
  return new Set([...wanted].filter((tool) => hasTool(tool)))
}

/** `2 × Intel …, x64, 24 GB, Linux 6.18, Node v24.21.0`, then a line with the version of each tool, and where it is from. */
export function machine(tools: ReadonlySet<Tool>, built: ReadonlyMap<Tool, string> = new Map()): string[] {
  const gib = Math.round(totalmem() / 2 ** 30)
  return [
    `${cpus().length} × ${cpus()[0]?.model.trim()}, ${arch()}, ${gib} GiB, Linux ${release()}, Node ${process.version}`,
    [...tools]
      .map((tool) => (built.has(tool) ? `${tool} ${built.get(tool)} (built here)` : versionOf(tool)))
      .join(', '),
  ]
}

function versionOf(tool: Tool): string {
  const [file, ...args] = TOOLS[tool].version
  const said = saidBy(file, args)
  return `${tool} ${/(?:^|[^\d.])(\d+\.\d[\w.+~-]*)(?=\s|$|,)/.exec(said.replace(/\d+\.\d+\.\d+\.\d+/g, ''))?.[1] ?? '?'}`
}

/** Some of them say their version on stderr, or with a failing code. */
function saidBy(file: string, args: readonly string[]): string {
  try {
    return execFileSync('sh', ['-c', 'exec "$@" 2>&1', 'sh', file, ...args], { encoding: 'utf8', timeout: 5_000 })
  } catch (error) {
    return (error as { stdout?: string }).stdout ?? ''
  }
}
