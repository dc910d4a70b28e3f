import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Need } from '../../src/orchestrator/root/people/need.ts'
import { type Permission, permits, type Role, ROLE_WORDS } from '../../src/orchestrator/root/people/roles.ts'
import type { Operation } from '../../src/orchestrator/root/v1/operation.ts'
import { OPERATIONS } from '../../src/orchestrator/root/v1/routes.ts'

const PAGE = 'docs/tenants.md'
const BEGIN = '<!-- The rows below are written by `npm run docs` from src/orchestrator/root/v1. -->\n'
const END = '<!-- Until here. -->\n'

/** docs/tenants.md with its table of roles × calls anew; the rest of it is written by hand. */
export function tenantsPage(): string {
  const page = readFileSync(resolve(import.meta.dirname, '../..', PAGE), 'utf8')
  const [begin, end] = [page.indexOf(BEGIN) + BEGIN.length, page.indexOf(END)]
  if (begin < BEGIN.length || end < begin) throw new Error(`${PAGE} does not say where its table begins and ends`)
  const head = ['call', ...ROLE_WORDS.map((role) => `\`${role}\``), 'of another organisation']
  const rows = OPERATIONS.map((call) => [
    `\`${call.method.toUpperCase()} /v1${call.path}\``,
    ...ROLE_WORDS.map((role) => ownCell(role, call)),
    othersCell(call),
  ])
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |\n`
  const table = `${line(head)}|${head.map(() => '---|').join('')}\n${rows.map(line).join('')}`
  return `${page.slice(0, begin)}\n${table}\n${page.slice(end)}`
}

type Call = Pick<Operation, 'needs' | 'path'>

/** What somebody with the role is answered who asks about its own organisation. */
function ownCell(role: Role, { needs, path }: Call): string {
  if (needs === 'open' || needs === 'self') return 'yes'
  const [permission, of] = needs.split(' ') as [Permission, string]
  if (of === 'mesh') return role === 'administrator' ? 'yes' : 'no'
  if (permits(role, permission)) return 'yes'
  if (of === 'listed') return 'nothing'
  return isOfUser(path) ? 'unknown' : 'no' // who may not decide about users does not see them
}

/** And about another one, whatever the role; the administrator has no other. */
function othersCell({ needs, path }: Call): string {
  if (isOfUser(path)) return 'unknown'
  if (needs === 'open' || needs === 'self') return path.includes('{') ? 'unknown' : '–'
  const [, of] = needs.split(' ')
  if (of === 'listed') return 'not in it'
  return of === 'mesh' || of === 'given' ? 'no' : 'unknown'
}

function isOfUser(path: string): boolean {
  return path.startsWith('/users/{')
}
