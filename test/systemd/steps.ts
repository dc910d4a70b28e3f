import { blocksOf, page } from '../docs/markdown.ts'
import type { Machine } from './machine.ts'

export interface Machines {
  server: Machine
  node: Machine
}

/** A block of docs/operations.md as it stands, with TOKEN set where it is used. */
export function block(section: string, at: number, token?: string): string {
  const found = blocksOf(page('docs/operations.md')).filter((one) => one.section === section && one.syntax === 'sh')[at]
  if (found === undefined) throw new Error(`no block ${at} in ${section}`)
  return token === undefined ? found.text : `TOKEN=${token}\n${found.text}`
}

export function property(machine: Machine, unit: string, name: string): Promise<string> {
  return machine.must(`systemctl show -P ${name} ${unit}`)
}

export function mainPid(machine: Machine, unit: string): Promise<string> {
  return property(machine, unit, 'MainPID')
}

/** The processes of the two instances of examples/hello.yaml. */
export async function instances(node: Machine): Promise<string[]> {
  return (await node.must(`pgrep -f 'hello fro[m]' | sort -n`)).split('\n')
}

/** Until the mesh says that both instances run. */
export async function running(server: Machine, node: Machine): Promise<void> {
  await server.until('hedgerow get instances -o json || true', /(?:"running"[^]*){2}/, 60_000)
  await node.until(`pgrep -fc 'hello fro[m]' || true`, '2')
}

/** For what is refused until a role that has just started is back at its parent. */
export function retried(machine: Machine, command: string): Promise<string> {
  return machine.until(`${command} || true`, /./)
}

/** Kills or stops the main process of a unit, and waits until another one serves. */
export async function restarted(machine: Machine, unit: string, how: string): Promise<void> {
  const before = await machine.until(`systemctl show -P MainPID ${unit}`, /^[1-9]\d*$/) // 0 while it has none
  await machine.must(`${how} ${before}`)
  await machine.until(
    `systemctl show -P MainPID -P ActiveState -P StatusText ${unit} | xargs`,
    new RegExp(`^(?!${before} |0 )\\d+ serving active`),
  )
}
