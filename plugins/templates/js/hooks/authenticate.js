/** Who is this client? Here a token is `<user>:<secret>`, with the setting `secret`. A refusal is thrown. */
export const authenticate = {
  authenticate(credentials) {
    const [user, shown] = (credentials.token ?? '').split(':');
    const secret = setting('secret');
    if (!secret || shown !== secret) throw { reason: 'a token user:secret is needed' };
    return { user };
  },
};
