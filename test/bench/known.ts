import { readFileSync, writeFileSync } from 'node:fs'

/**
 * A node's saved table, as if its programs had asked for many services: what the agent's first service looks like, so many times,
 * under the number that the cluster has reached. The cluster finds nothing to correct in it when the agent comes back.
 */
interface Saved {
  format: number
  table: { epoch: string; seq: number; keys: { key: string; usedAt: number }[]; entries: Entry[] }
}

interface Entry {
  version: number
  service: { id: string; name: string; vips: Record<string, number>; [more: string]: unknown }
  instances: { id: string; service: string; ordinal: number; node: string; state: string }[]
  nodes: unknown[]
}

const POLICIES = ['rr', 'closest', 'pinned', 'least']
/** From here on VIPs are free in a small mesh: the upper half of 20 bits. */
const FIRST_VIP = 0x80000

/** Adds `services` × `replicas` to the copy at `path`; returns their names. */
export function extend(path: string, services: number, replicas: number): string[] {
  const saved = JSON.parse(readFileSync(path, 'utf8')) as Saved
  const [pattern] = saved.table.entries
  if (pattern === undefined) throw new Error('the saved table is empty')
  let vip = FIRST_VIP
  const added = Array.from({ length: services }, (_, i): Entry => {
    const id = `known.bench.s${i}.bench`
    const choices = ['any', ...Array.from({ length: replicas }, (_none, ordinal) => String(ordinal))]
    const vips = Object.fromEntries(
      choices.flatMap((choice) => POLICIES.map((policy) => [`${choice}.${policy}`, vip++])),
    )
    const service = { ...pattern.service, id, app: 'known', name: `s${i}`, vips }
    const instances = Array.from({ length: replicas }, (_none, ordinal) => ({
      id: `${id}.${ordinal}`,
      service: id,
      ordinal,
      node: pattern.instances[0]?.node ?? '',
      state: 'running',
    }))
    return { version: pattern.version, service, instances, nodes: pattern.nodes }
  })
  saved.table.entries.push(...added)
  saved.table.keys.push(...added.map(({ service: { name } }) => ({ key: `known.bench.${name}`, usedAt: Date.now() })))
  writeFileSync(path, JSON.stringify(saved), { mode: 0o600 })
  return added.map(({ service: { name } }) => `known.bench.${name}.bench.any.rr.local`)
}
