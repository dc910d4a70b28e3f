import type { LocalFacts } from './local.ts'

/** A setting of the kernel that says something about flows. */
export interface Tuning {
  check: string
  finding: string
  /** For whom it is worth something; for all when absent. */
  when?: string
  /** What would make it better; nothing when it is well. */
  commands: readonly string[]
}

/** Below, a burst of sealed datagrams is lost while the agent is busy elsewhere. */
const RECEIVE_BYTES = 4 * 1024 * 1024
/** What the kernel holds unsent per connection when nothing is said. */
const UNLIMITED = 0xffff_ffff
const UNSENT_BYTES = 131_072

/**
 * What could be tuned for flows between nodes. Reported always and needed never: `hedgerow netcheck --tune` prints the commands,
 * and nothing of ours runs them.
 */
export function tuningOf({ settings, defaults }: Pick<LocalFacts, 'settings' | 'defaults'>): Tuning[] {
  const value = (name: string) => (settings[name] === undefined ? undefined : Number(settings[name]))
  const found: Tuning[] = []
  if (value('net/ipv4/tcp_slow_start_after_idle') === 1)
    found.push({
      check: 'tcp_slow_start_after_idle',
      finding: '1: a carrier that rested begins slowly again',
      commands: ['sysctl -w net.ipv4.tcp_slow_start_after_idle=0'],
    })
  if (value('net/ipv4/tcp_notsent_lowat') === UNLIMITED)
    found.push({
      check: 'tcp_notsent_lowat',
      finding: 'unlimited: small requests may wait in the kernel behind bulk',
      commands: [`sysctl -w net.ipv4.tcp_notsent_lowat=${UNSENT_BYTES}`],
    })
  found.push(...congestionOf({ settings, defaults }))
  if ((value('net/core/rmem_max') ?? RECEIVE_BYTES) < RECEIVE_BYTES)
    found.push({
      check: 'rmem_max',
      finding: `${settings['net/core/rmem_max']} bytes: bursts of datagrams may be lost`,
      commands: [`sysctl -w net.core.rmem_max=${RECEIVE_BYTES}`],
    })
  return found
}

/** For the default routes only, where the way to other sites leads: what stays in this network is as it was. */
function congestionOf({ settings, defaults }: Pick<LocalFacts, 'settings' | 'defaults'>): Tuning[] {
  const congestion = settings['net/ipv4/tcp_congestion_control']
  if (congestion === undefined) return []
  const own = defaults.filter((route) => route.congestion !== undefined)
  const finding = [congestion, ...own.map((route) => `${route.congestion} for the default route by ${route.device}`)]
  const isBbr = congestion === 'bbr' || own.some((route) => route.congestion === 'bbr')
  const isThere = (settings['net/ipv4/tcp_available_congestion_control'] ?? '').split(' ').includes('bbr')
  const routes = defaults.flatMap(({ family, route }) =>
    route === undefined ? [] : [`ip -${family === 'ipv4' ? 4 : 6} route change ${route} congctl bbr`],
  )
  const choose = routes.length > 0 ? routes : ['sysctl -w net.ipv4.tcp_congestion_control=bbr']
  const commands = isBbr ? [] : [...(isThere ? [] : ['modprobe tcp_bbr']), ...choose]
  return [{ check: 'congestion control', finding: finding.join('; '), when: ', for lossy paths', commands }]
}

/** The commands, and why, for a shell to read. */
export function tuningScript(tunings: readonly Tuning[]): string[] {
  const useful = tunings.filter(({ commands }) => commands.length > 0)
  if (useful.length === 0) return ['# nothing to tune']
  return [
    '# optional, and lost at the next start of the machine; as root, after reading: hedgerow netcheck --tune | sh',
    ...useful.flatMap(({ check, finding, when = '', commands }) => [`# ${check}${when}: ${finding}`, ...commands]),
  ]
}
