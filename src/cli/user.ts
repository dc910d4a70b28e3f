import { X509Certificate } from 'node:crypto'
import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { fingerprintOf } from '../core/identity/authorities.ts'
import { type Context, credentialOf, rootClient } from './context.ts'
import { grantText } from './login.ts'
import { isData, printData, printTable } from './output.ts'
import { note, say } from './terminal.ts'
import { typedSecrets } from './typed-secret.ts'

export const ROLES = [
  'administrator',
  'organisation-administrator',
  'application-provider',
  'infrastructure-provider',
  'viewer',
] as const
type Role = (typeof ROLES)[number]

interface CreateOptions {
  org?: string
  role?: string
  password?: boolean
}

export function userCommand(program: Command, context: () => Context): void {
  const user = program.command('user').description('manage users, and what they may do')
  user
    .command('create')
    .description('create a user; its password is read from standard input')
    .argument('<name>', 'a label such as alice')
    .option('--org <name>', 'the organisation whose administrators may give it a password and delete it')
    .option('--role <role>', `its first role, in that organisation: ${ROLES.join(', ')}`)
    .option('--no-password', 'without a password: nobody can log in as it until it has one')
    .action(async (name: string, { org, role, password: hasPassword }: CreateOptions) => {
      const here = context()
      const grants = role === undefined ? [] : [grantOf(role, org)]
      const [password] = hasPassword === false ? [] : await typedSecrets(['Password'])
      const body = {
        name,
        grants,
        ...(org === undefined ? {} : { organisation: org }),
        ...(password === undefined ? {} : { password }),
      }
      const made = await rootClient(here).ask('POST', '/v1/users', { body })
      if (isData(here)) return printData(made, here)
      say(`user ${name} created`)
      const { url, ca } = credentialOf(here)
      note(
        `On their machine: hedgerow login ${url} --fingerprint ${fingerprintOf(new X509Certificate(ca))} --user ${name}`,
      )
    })
  user
    .command('list')
    .description('list the users about whom one decides, and oneself')
    .action(async () => {
      const { items } = await rootClient(context()).ask('GET', '/v1/users', { query: { limit: 1_000 } })
      if (isData(context())) return printData(items, context())
      printTable(
        ['user', 'organisation', 'roles', 'password'],
        items.map(({ name, organisation, grants, hasPassword }) => [
          name,
          organisation,
          grants.length === 0 ? undefined : grants.map(grantText),
          hasPassword ? 'yes' : 'no',
        ]),
      )
    })
  const change =
    (how: 'add' | 'remove') =>
    async (name: string, role: string, { org }: { org?: string }) => {
      const changed = await rootClient(context()).ask('PATCH', '/v1/users/{name}', {
        path: { name },
        body: { [how]: [grantOf(role, org)] },
      })
      if (isData(context())) return printData(changed, context())
      say(`${name} is ${changed.grants.map(grantText).join(', ') || 'without a role'}`)
    }
  user
    .command('grant')
    .description('give a user a role')
    .argument('<name>', 'the user')
    .argument('<role>', ROLES.join(', '))
    .option('--org <name>', 'in which organisation; an administrator is one of the whole mesh')
    .action(change('add'))
  user
    .command('revoke')
    .description('take a role from a user; what it has open by it is cut')
    .argument('<name>', 'the user')
    .argument('<role>', ROLES.join(', '))
    .option('--org <name>', 'in which organisation')
    .action(change('remove'))
  user
    .command('password')
    .description('give a user another password, from standard input, and end its sessions; oneself the old one first')
    .argument('<name>', 'the user')
    .action(async (name: string) => {
      const client = rootClient(context())
      const isOwn = (await client.ask('GET', '/v1/me', {})).user === name
      const typed = await typedSecrets(isOwn ? ['Old password', 'New password'] : ['New password'])
      const body = { password: typed.at(-1) ?? '', ...(isOwn ? { old: typed[0] ?? '' } : {}) }
      const answer = await client.ask('PUT', '/v1/users/{name}/password', { path: { name }, body })
      if (isData(context())) return printData(answer, context())
      say(`${name} has another password; its sessions have ended`)
    })
  user
    .command('delete')
    .description('delete a user with its API tokens, and end its sessions')
    .argument('<name>', 'the user')
    .action(async (name: string) => {
      const deleted = await rootClient(context()).ask('DELETE', '/v1/users/{name}', { path: { name } })
      if (isData(context())) return printData(deleted, context())
      say(`user ${name} deleted`)
    })
}

/** @throws MeshError USAGE */
export function grantOf(given: string, org: string | undefined): { role: Role; organisation?: string } {
  const role = ROLES.find((one) => one === given)
  if (role === undefined)
    throw new MeshError('USAGE', { option: 'role', given, remedy: `Use one of: ${ROLES.join(', ')}.` })
  if (role !== 'administrator' && org === undefined)
    throw new MeshError('USAGE', {
      reason: `${role} is a role in an organisation`,
      remedy: 'Say in which with --org NAME.',
    })
  return { role, ...(role === 'administrator' || org === undefined ? {} : { organisation: org }) }
}
