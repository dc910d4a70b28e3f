import { setPassword } from '../../live/people.ts'
import { textIn } from '../../model/entered.ts'
import { whenText } from '../../model/text.ts'
import { grantText, type Me } from '../../model/who.ts'
import { Field, type Question, useDesk } from '../../parts/desk.tsx'
import { Facts } from '../../parts/panel.tsx'
import { Sheet } from '../../parts/sheet.tsx'
import type { Api } from '../../live/api.ts'

const BY: Readonly<Record<Me['by'], string>> = {
  credential: 'the credential of the root (admin.json)',
  token: 'an API token',
  session: 'a session',
}

/** Who the root says one is, and what one may. */
export function MeView({ now }: { now: number }) {
  const { me, ask, api } = useDesk()
  if (me === undefined) return <p class="muted">Asking the root …</p>
  return (
    <>
      <h2>{me.user}</h2>
      <Facts
        facts={[
          ['Asks with', BY[me.by]],
          ['Roles', me.grants.map(grantText).join(', ') || (me.isAdministrator ? 'administrator' : 'none')],
          ...(me.expiresAt === undefined ? [] : [['Ends', whenText(me.expiresAt, now)] as const]),
          ...(me.limits === undefined ? [] : [['No more than', limitsText(me.limits)] as const]),
        ]}
      />
      {me.by === 'session' ? (
        <p class="actions">
          <button type="button" class="button small" onClick={() => ask(passwordQuestion(api, me.user))}>
            Change the password
          </button>
        </p>
      ) : undefined}
      <h3>What you may</h3>
      {me.isAdministrator ? <p>Everything, in the whole mesh.</p> : undefined}
      <Sheet
        label="What you may"
        rows={me.organisations}
        keyOf={({ name }) => name}
        empty={
          me.isAdministrator
            ? 'There are no organisations: everything is the administrator’s.'
            : 'Nothing yet: you have no role. An administrator of your organisation gives you one.'
        }
        columns={[
          { head: 'Organisation', cell: ({ name }) => <b>{name}</b> },
          { head: 'Namespaces', isExtra: true, cell: ({ namespaces }) => namespaces.join(' ') },
          { head: 'Permissions', cell: ({ permissions }) => permissions.join(', ') },
        ]}
      />
    </>
  )
}

export function limitsText({ grants, apps }: NonNullable<Me['limits']>): string {
  return [...(grants ?? []).map(grantText), ...(apps ?? []).map((app) => `the app ${app}`)].join(', ') || 'its owner'
}

function passwordQuestion(api: Api, user: string): Question {
  return {
    title: 'Change the password',
    text: 'All sessions end, also this one: log in again with the new password.',
    fields: (
      <>
        <Field label="Password now">
          <input class="field" type="password" name="old" autocomplete="current-password" required autofocus />
        </Field>
        <NewPassword />
      </>
    ),
    confirm: 'Change',
    act: async (entered) => {
      await setPassword(api, user, { old: raw(entered, 'old'), password: raw(entered, 'password') })
      return 'The password is changed.'
    },
  }
}

export function NewPassword() {
  return (
    <Field label="New password" hint="At least 12 characters.">
      <input class="field" type="password" name="password" autocomplete="new-password" minLength={12} required />
    </Field>
  )
}

/** Spaces at the ends of a password are part of it. */
export function raw(entered: FormData, name: string): string {
  const value = entered.get(name)
  return typeof value === 'string' ? value : textIn(entered, name)
}
