/** A session came or went. */
export const onSession = {
  onSession(event) {
    log('info', 'sessions', `${event.user} ${event.change === 'connected' ? 'came' : 'went'}`);
  },
};
