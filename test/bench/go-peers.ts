import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { run } from '../../src/lab/program.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import type { Tool } from './tools.ts'

/**
 * Peers as their users have them today: Debian's are years old. Where `go` is there they are built from the Go module registry, in
 * the versions below, once; otherwise, or when that fails, Debian's are taken.
 */
interface GoPeer {
  readonly module: string
  readonly version: string
  /** Folders of the module with a `main`, and what the program of each is to be called. */
  readonly programs: Readonly<Record<string, string>>
  /** Whose place it takes. */
  readonly tool: Tool
}

const PEERS: readonly GoPeer[] = [
  {
    tool: 'wireguard-go',
    module: 'golang.zx2c4.com/wireguard',
    version: 'v0.0.0-20260522210424-ecfc5a8d5446',
    programs: { '': 'wireguard-go' },
  },
  {
    tool: 'nebula',
    module: 'github.com/slackhq/nebula',
    version: 'v1.10.3',
    programs: { '/cmd/nebula': 'nebula', '/cmd/nebula-cert': 'nebula-cert' },
  },
  { tool: 'coredns', module: 'github.com/coredns/coredns', version: 'v1.15.0', programs: { '': 'coredns' } },
]

/** Inside node_modules, so that nothing is committed. */
const CACHE = resolve(import.meta.dirname, '../../node_modules/.cache/hedgerow-bench-peers')
/** CoreDNS has hundreds of packages. */
const BUILD_MS = 30 * 60_000

/** Builds those that are wanted and not there yet, and puts them first on this process's PATH. The version of each. */
export async function buildPeers(wanted: ReadonlySet<Tool>, say: (line: string) => void): Promise<Map<Tool, string>> {
  const built = new Map<Tool, string>()
  const peers = PEERS.filter(({ tool }) => wanted.has(tool))
  if (peers.length > 0 && !hasTool('go')) {
    say(`go is not installed: ${peers.map(({ tool }) => tool).join(', ')} as Debian has them`)
    return built
  }
  for (const peer of peers) {
    const folder = join(CACHE, `${peer.tool}-${peer.version}-${process.arch}`)
    try {
      if (!existsSync(folder)) await build(peer, folder, say)
      process.env['PATH'] = [folder, process.env['PATH']].join(delimiter)
      built.set(peer.tool, peer.version)
    } catch (error) {
      say(`${peer.tool} ${peer.version} cannot be built, Debian's is taken: ${(error as Error).message}`)
    }
  }
  return built
}

async function build(
  { module, version, programs }: GoPeer,
  folder: string,
  say: (line: string) => void,
): Promise<void> {
  const making = `${folder}.${process.pid}`
  mkdirSync(making, { recursive: true })
  try {
    for (const [path, name] of Object.entries(programs)) {
      say(`building ${module}${path}@${version}`)
      const env = { GOFLAGS: '-mod=mod', GOBIN: making }
      const { code, stderr } = await run(['go', 'install', `${module}${path}@${version}`], { env, timeoutMs: BUILD_MS })
      if (code !== 0) throw new Error(stderr.trim().split('\n').at(-1) ?? `go install: code ${code}`)
      const made = `${module}${path}`.split('/').at(-1) ?? name
      renameSync(join(making, made), join(making, name))
    }
    renameSync(making, folder)
  } finally {
    rmSync(making, { recursive: true, force: true })
  }
}
